"""What runs in the peers' own environments: it imports nothing of Greenroom but `catalog`'s contract."""
