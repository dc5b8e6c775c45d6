"""The configuration of MLflow's basic-auth, which takes its database from a file alone."""


def basic_auth_ini(database_url: str) -> str:
    """Return the content of basic-auth.ini. It holds a password: write it for its owner alone."""
    # Every account may read and owns what it creates; the rest is granted. The cache saves slow password
    # hashes; a changed password counts after its seconds. A percent sign begins a reference in this format.
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {database_url.replace('%', '%%')}\n"
        "admin_username = admin\n"
        "auth_cache_ttl_seconds = 60\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
