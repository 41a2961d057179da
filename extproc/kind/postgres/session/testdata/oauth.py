"""Connects by libpq 18 with SASL OAUTHBEARER, and says what libpq asks for a token and what comes of it.

LIBRARY CONNINFO, and the token in the environment's TOKEN.
"""

import ctypes
import os
import sys


class Request(ctypes.Structure):  # PGoauthBearerRequest of libpq-fe.h
    _fields_ = [
        ("openid_configuration", ctypes.c_char_p),
        ("scope", ctypes.c_char_p),
        ("step", ctypes.c_void_p),
        ("cleanup", ctypes.c_void_p),
        ("token", ctypes.c_char_p),
        ("user", ctypes.c_void_p),
    ]


TOKEN = os.environ["TOKEN"].encode()
BEARER = 1  # PQAUTHDATA_OAUTH_BEARER_TOKEN


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def hook(kind, _conn, data):
    if kind != BEARER:
        return 0
    request = ctypes.cast(data, ctypes.POINTER(Request)).contents
    print("asked", request.openid_configuration.decode(), (request.scope or b"").decode())
    request.token = TOKEN
    return 1


pq = ctypes.CDLL(sys.argv[1])
pq.PQconnectdb.restype = ctypes.c_void_p
pq.PQexec.restype = ctypes.c_void_p
pq.PQgetvalue.restype = ctypes.c_char_p
pq.PQerrorMessage.restype = ctypes.c_char_p
pq.PQsetAuthDataHook(hook)
conn = ctypes.c_void_p(pq.PQconnectdb(sys.argv[2].encode()))
if pq.PQstatus(conn) != 0:
    print(pq.PQerrorMessage(conn).decode().strip())
    sys.exit()
result = ctypes.c_void_p(pq.PQexec(conn, b"SELECT name FROM items WHERE id = 3"))
print("read", pq.PQgetvalue(result, 0, 0).decode(), pq.PQfullProtocolVersion(conn))
pq.PQfinish(conn)
