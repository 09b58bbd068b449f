"""The wire: message schema, in-process bus, rosbridge gateway and client."""
