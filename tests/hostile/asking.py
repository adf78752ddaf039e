"""Bad requests around a good picture: bodies, forms, JSON, addresses, masks, ids in paths."""

import base64
import json
from dataclasses import dataclass, field

from tests.conftest import artwork

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=b"
FILE_NAME = "my-holiday-at-the-sea"

GOOD = artwork()


@dataclass(frozen=True, slots=True)
class Ask:
    """A request and the code that it is refused with."""

    name: str
    code: str
    path: str = "/remove-background"
    kind: str = MULTIPART
    body: bytes = b""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


def bad_requests() -> list[Ask]:
    """All of them, of different names."""
    return [*_multipart(), *_names(), *_json(), *_forms(), *_addresses(), *_paths(), *_parameters()]


def part(disposition: bytes, content: bytes = GOOD, *headers: bytes) -> bytes:
    lines = (b"Content-Disposition: form-data; " + disposition, *headers)
    return b"--b\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + content + b"\r\n"


IMAGE = b'name="image"; filename="' + FILE_NAME.encode() + b'.png"'
END = b"--b--\r\n"


def _multipart() -> list[Ask]:
    whole = part(IMAGE) + END
    field_part = b'name="models"'
    bodies = {
        "no part": END,
        "nothing": b"",
        "no boundary in it": b"just text",
        "another boundary": whole.replace(b"--b", b"--c"),
        "cut in the boundary": whole[:3],
        "cut in a part's head": whole[:40],
        "cut in the picture": whole[:200],
        "cut before the last boundary": whole[: -len(END)],
        "41 parts": part(b'name="x"', b"1") * 41 + END,
        "10000 parts": part(b'name="x"', b"1") * 10_000 + END,
        "9 headers in a part": part(IMAGE, GOOD, *[b"X: y"] * 9) + END,
        "a part's header of 5 kB": part(IMAGE, GOOD, b"X: " + b"y" * 5000) + END,
        "a part's header of 200 kB": part(IMAGE, GOOD, b"X: " + b"y" * 200_000) + END,
        "a part's header name of 5 kB": part(IMAGE, GOOD, b"X" * 5000 + b": y") + END,
        "a header without a colon": part(IMAGE, GOOD, b"nonsense") + END,
        "a field of 17 kB": part(IMAGE) + part(field_part, b"x" * 17_000) + END,
        "a field of 5 MB": part(IMAGE) + part(field_part, b"x" * 5_000_000) + END,
        "a field that is no UTF-8": part(IMAGE) + part(field_part, b"\xff\xfe") + END,
        "a file under another name": part(b'name="other"; filename="a.png"') + END,
        "a file under no name": part(b'filename="a.png"') + END,
        "a file named by an address": part(b'name="../../etc/passwd"; filename="a"') + END,
        "a field without a name": part(b"x=y", b"1") + END,
        "fields of two kinds of line": whole.replace(b"\r\n", b"\n"),
        "a NUL for a name": part(b'name="\0"', b"1") + part(IMAGE) + END,
        "an unknown field": part(IMAGE) + part(b'name="speed"', b"9") + END,
        "a field name of 4 kB": part(IMAGE) + part(b'name="' + b"n" * 4000 + b'"', b"1") + END,
    }
    missing = {"no part", "a field without a name"}
    asks = [
        Ask(
            f"multipart: {name}",
            "missing_source" if name in missing else "invalid_parameter",
            body=body,
        )
        for name, body in bodies.items()
    ]
    return [
        *asks,
        Ask("multipart: two pictures", "multiple_sources", body=part(IMAGE) * 2 + END),
        Ask(
            "multipart: a picture and an address",
            "multiple_sources",
            body=part(IMAGE) + part(b'name="image_url"', b"http://a.test/") + END,
        ),
        Ask("multipart: an empty picture", "empty_file", body=part(IMAGE, b"") + END),
        Ask(
            "multipart: no boundary named",
            "invalid_parameter",
            kind="multipart/form-data",
            body=whole,
        ),
        Ask(
            "multipart: a boundary of 4 kB",
            "invalid_parameter",
            kind="multipart/form-data; boundary=" + "b" * 4000,
            body=whole,
        ),
        Ask(
            "multipart: an empty boundary",
            "invalid_parameter",
            kind='multipart/form-data; boundary=""',
            body=whole,
        ),
        Ask("a body of no type", "missing_source", kind="", body=GOOD),
        Ask("a body of an unknown type", "unsupported_media_type", kind="image/png", body=GOOD),
        Ask(
            "a body of a wild type",
            "unsupported_media_type",
            kind="x;;=;" + "a" * 4000,
            body=GOOD,
        ),
        Ask("nothing at all", "missing_source", kind=""),
        Ask(
            "more bytes than are allowed", "file_too_large", body=part(IMAGE, bytes(9 << 20)) + END
        ),
    ]


def _names() -> list[Ask]:
    """A customer's file name is never looked at: what it names is refused for its content."""
    names = {
        "a path upwards": b"../../../../etc/passwd",
        "a windows path": b"..\\..\\windows\\system32\\x.png",
        "an absolute path": b"/etc/shadow",
        "a NUL": b"a\0.png",
        "4 kB": b"n" * 4000,
        "a shell's words": b"$(reboot);`id`|cat.png",
        "a device": b"/dev/zero",
        "markup": b"<script>alert(1)</script>.png",
        "a format": b"%s%s%n{0}{}.png",
        "control characters": b"\x01\x02\x1b[31m.png",
        "no UTF-8": b"\xff\xfe\xfd.png",
        "an RTL override": "\u202egnp.exe".encode(),
        "a header": b"a.png%0d%0aX-Injected: 1",
    }
    text = b"this is no picture, whatever its name may be"
    asks = [
        Ask(
            f"file name: {name}",
            "unsupported_media_type",
            body=part(b'name="image"; filename="' + value + b'"', text) + END,
        )
        for name, value in names.items()
    ]
    crlf = part(b'name="image"; filename="a\r\nX-Injected: 1\r\n"', text) + END
    return [*asks, Ask("file name: a line's end", "invalid_parameter", body=crlf)]


def _json() -> list[Ask]:
    picture = base64.b64encode(GOOD).decode()
    texts = {
        "no document": "",
        "no JSON": "{image: 1}",
        "half a document": '{"image_base64": "',
        "a list": "[]",
        "null": "null",
        "a number": "1",
        "a string": '"x"',
        "NUL bytes": "\0\0\0\0",
        "nested lists": '{"models": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "nested objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
        "100000 keys": "{" + ",".join(f'"k{n}":1' for n in range(80_000)) + "}",
        "a list of 300000 numbers": '{"models": [' + "1," * 300_000 + "1]}",
        "a number of 20000 digits": '{"deadline_s": ' + "9" * 20_000 + "}",
        "1.2 MB without a picture": json.dumps({"models": "x" * 1_200_000}),
        "the picture twice": f'{{"image_base64": "{picture}", "image_base64": "{picture}"}}',
        "a picture that is a number": '{"image_base64": 9}',
        "a picture that is a list": '{"image_base64": ["a"]}',
        "an address that is a number": '{"image_url": 9}',
        "an address that is a list": '{"image_url": ["http://a.test/"]}',
        "base64 of the wrong letters": '{"image_base64": "!!!!"}',
        "base64 of the wrong length": '{"image_base64": "AAAAA"}',
        "base64 with padding inside": '{"image_base64": "AA==AAAA"}',
        "base64 with escapes": '{"image_base64": "\\u0000\\u0000"}',
        "base64 with a lone escape": '{"image_base64": "AAAA\\"}',
        "base64 beyond ASCII": '{"image_base64": "äöüß"}',
        "models that are a number": f'{{"image_base64": "{picture}", "models": 9}}',
        "models that are objects": f'{{"image_base64": "{picture}", "models": [{{}}]}}',
        "a deadline that is text": f'{{"image_base64": "{picture}", "deadline_s": "soon"}}',
        "a deadline that is NaN": f'{{"image_base64": "{picture}", "deadline_s": NaN}}',
        "a deadline that is infinite": f'{{"image_base64": "{picture}", "deadline_s": 1e999}}',
        "an unknown field": f'{{"image_base64": "{picture}", "__proto__": {{}}}}',
    }
    codes = {
        "an address that is a number": "invalid_parameter",
    }
    asks = [
        Ask(f"json: {name}", codes.get(name, "invalid_parameter"), kind=JSON, body=text.encode())
        for name, text in texts.items()
    ]
    zeros = base64.b64encode(bytes(9 << 20)).decode()
    return [
        *asks,
        Ask("json: no picture", "missing_source", kind=JSON, body=b"{}"),
        Ask("json: a null picture", "missing_source", kind=JSON, body=b'{"image_url": null}'),
        Ask("json: an empty picture", "empty_file", kind=JSON, body=b'{"image_base64": ""}'),
        Ask(
            "json: a prefix alone",
            "empty_file",
            kind=JSON,
            body=b'{"image_base64": "data:image/png;base64,"}',
        ),
        Ask(
            "json: text for a picture",
            "unsupported_media_type",
            kind=JSON,
            body=b'{"image_base64": "QUJDREVGR0g="}',
        ),
        Ask(
            "json: too large a picture",
            "file_too_large",
            kind=JSON,
            body=f'{{"image_base64": "{zeros}"}}'.encode(),
        ),
        Ask("json: no UTF-8", "invalid_parameter", kind=JSON, body=b'{"models": "\xff\xfe"}'),
    ]


def _forms() -> list[Ask]:
    return [
        Ask("form: nothing", "missing_source", kind=FORM),
        Ask("form: 41 fields", "invalid_parameter", kind=FORM, body=b"a=1&" * 41),
        Ask("form: no UTF-8", "invalid_parameter", kind=FORM, body=b"a=%ff%fe&b=\xff"),
        Ask("form: 20 kB", "file_too_large", kind=FORM, body=b"image_url=" + b"a" * 20_000),
        Ask(
            "form: base64 rubbish",
            "invalid_parameter",
            kind=FORM,
            path="/v1.0/removebg",
            body=b"image_file_b64=%%%",
        ),
        Ask(
            "form: 20 kB beside base64",
            "file_too_large",
            kind=FORM,
            path="/v1.0/removebg",
            body=b"image_file_b64=AAAA&x=" + b"a" * 20_000,
        ),
    ]


def _addresses() -> list[Ask]:
    urls = {
        "a file": "file:///etc/passwd",
        "ftp": "ftp://example.com/a.png",
        "gopher": "gopher://example.com/",
        "data": "data:image/png;base64,AAAA",
        "no scheme": "//example.com/a.png",
        "no address": "nonsense",
        "nothing": "",
        "loopback": "http://127.0.0.1/a.png",
        "loopback, decimal": "http://2130706433/",
        "loopback, octal": "http://0177.0.0.1/",
        "loopback, hexadecimal": "http://0x7f000001/",
        "loopback, short": "http://127.1/",
        "loopback, by name": "http://localhost/",
        "zero": "http://0.0.0.0/",
        "zero, short": "http://0/",
        "the cloud's data": "http://169.254.169.254/latest/meta-data/",
        "the cloud's data, decimal": "http://2852039166/",
        "a private network": "http://10.0.0.1/",
        "carrier's network": "http://100.64.0.1/",
        "multicast": "http://224.0.0.1/",
        "broadcast": "http://255.255.255.255/",
        "v6 loopback": "http://[::1]/",
        "v6 nowhere": "http://[::]/",
        "v6 mapped": "http://[::ffff:127.0.0.1]/",
        "v6 mapped, hexadecimal": "http://[::ffff:7f00:1]/",
        "v6 compatible": "http://[::127.0.0.1]/",
        "v6 of nat64": "http://[64:ff9b::7f00:1]/",
        "v6 of 6to4": "http://[2002:7f00:1::]/",
        "v6 of teredo": "http://[2001:0:7f00:1::]/",
        "v6 link-local": "http://[fe80::1]/",
        "v6 unique local": "http://[fd00::1]/",
        "another port": "http://93.184.215.14:8080/",
        "ssh's port": "http://93.184.215.14:22/",
        "port 0": "http://93.184.215.14:0/",
        "credentials": "http://user:word@93.184.215.14/",
        "an address in credentials": "http://93.184.215.14@127.0.0.1/",
        "a line's end": "http://127.0.0.1/\r\nX: y",
        "a NUL": "http://127.0.0.1/\0",
        "5 kB": "http://93.184.215.14/" + "a" * 5000,
    }
    return [
        Ask(
            f"image_url: {name}",
            "image_url_refused",
            kind=JSON,
            body=json.dumps({"image_url": url}).encode(),
        )
        for name, url in urls.items()
    ]


def _paths() -> list[Ask]:
    unknown = "0" * 32
    paths = {
        "upwards": "/results/../../etc/passwd",
        "upwards, coded": "/results/%2e%2e/%2e%2e/etc/passwd",
        "upwards, coded twice": "/results/%252e%252e/record.json",
        "upwards for a model": f"/results/{unknown}/..%2f..%2frecord.json.png",
        "a NUL": "/results/%00",
        "no UTF-8": "/results/%ff%fe",
        "a long id": "/results/" + "a" * 4000,
        "an id of capitals": "/results/" + "A" * 32,
        "an unknown id": f"/results/{unknown}",
        "an unknown id's picture": f"/results/{unknown}/local-isnet.png",
        "an unknown id's bundle": f"/results/{unknown}/bundle.zip",
        "an unknown id's sheet": f"/results/{unknown}/contact-sheet.webp",
        "an unknown id's original": f"/results/{unknown}/original.webp",
        "an unknown model": f"/results/{unknown}/none.png",
    }
    asks = [
        Ask(f"path: {name}", "*4xx", path=path, kind="", method="GET")
        for name, path in paths.items()
    ]
    mask = json.dumps({"model": "local-isnet", "keep": "AAAA", "erase": "AAAA"}).encode()
    return [
        *asks,
        Ask("path: nowhere", "not_found", path="/nowhere", kind="", method="GET"),
        Ask(
            "path: a wrong method",
            "method_not_allowed",
            path="/remove-background",
            kind="",
            method="GET",
        ),
        Ask(
            "path: an unknown id rendered",
            "*404",
            path=f"/results/{unknown}/render",
            kind=JSON,
            body=mask,
        ),
        Ask(
            "path: an unknown id deleted",
            "*404",
            path=f"/results/{unknown}",
            kind="",
            method="DELETE",
        ),
        Ask(
            "query: 60 kB of one name",
            "invalid_parameter",
            path="/remove-background?x=" + "q" * 60_000,
            body=part(IMAGE) + END,
        ),
        Ask(
            "query: 15000 names",
            "invalid_parameter",
            path="/remove-background?" + "&".join(f"a{n}" + "=1" for n in range(6000)),
            body=part(IMAGE) + END,
        ),
        Ask(
            "preferences: nested",
            "invalid_parameter",
            path="/preferences",
            kind=JSON,
            body=b"[" * 9000,
        ),
        Ask(
            "preferences: 17 kB",
            "file_too_large",
            path="/preferences",
            kind=JSON,
            body=b" " * 17_000,
        ),
    ]


def _parameters() -> list[Ask]:
    asked = {
        "scale=nan": "/upscale",
        "scale=inf": "/upscale",
        "scale=1e400": "/upscale",
        "scale=-4": "/upscale",
        "format=svg": "/upscale",
        "edge=%00": "/upscale",
        "models=../../x": "/remove-background",
        "models=" + "a," * 5000: "/remove-background",
        "deadline_s=99999999999999999999": "/remove-background",
        "callback_url=http://127.0.0.1/": "/remove-background",
        "garment=%3Cscript%3E": "/analyze",
    }
    return [
        Ask(f"parameter: {query[:40]}", "*4xx", path=f"{path}?{query}", body=part(IMAGE) + END)
        for query, path in asked.items()
    ]
