// The operator view: what the public JSON routes say, as tables and charts.
