"""The hotel's memory: every event, the state it led to, and the way each of them went. SQLite or PostgreSQL."""
