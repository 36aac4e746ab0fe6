"""Cluster environments and full sharding, as far as Lightning does not provide them."""
