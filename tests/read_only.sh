#!/bin/sh
# `read_only.sh FOLDER COMMAND…`, in a mount namespace of its own: run it where only FOLDER can be
# written. Says what it could not make read-only.
set -eu
folder=$1
shift
mount --make-rprivate /
mount --bind "$folder" "$folder"
awk '{ print $5 }' /proc/self/mountinfo | while read -r place; do
    case $place in
    "$folder" | "$folder"/* | /proc | /proc/* | /sys | /sys/* | /dev | /dev/*) ;;
    *) mount -o remount,bind,ro "$place" 2>/dev/null || echo "still writable: $place" >&2 ;;
    esac
done
exec "$@"
