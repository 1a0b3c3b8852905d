"""The hub gateway: the only way in. Silos meet it over mutual TLS; behind it, on loopback, is Flower's SuperLink."""
