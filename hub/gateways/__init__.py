"""What faces the network."""
