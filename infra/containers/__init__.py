"""What the containers of Compose and Kubernetes start with."""
