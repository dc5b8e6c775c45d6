"""infra: what runs Greenroom on a machine: set-up, the local stack."""
