"""What lets a front desk work for days without the hub: local database, queue, sync, recovery."""
