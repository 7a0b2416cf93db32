"""The endpoint: image bytes in, embedding out; how a server on this machine is started, found, replaced and stopped."""
