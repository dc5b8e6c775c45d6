"""What every flow shares with Prefect: retries, locks, notifications, progress."""
