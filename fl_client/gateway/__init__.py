"""The silo gateway: the only way out. The SuperNode meets it on loopback; behind it, over mutual TLS, is the hub."""
