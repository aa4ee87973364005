"""The event hub: log, fan-out, gateways, command line."""
