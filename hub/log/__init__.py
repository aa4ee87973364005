"""The log: events in Redis Streams, one stream a partition, appended by one script."""
