"""The configuration of MLflow's basic-auth, which takes its database from a file alone."""


def basic_auth_ini(database_url: str) -> str:
    """Return the content of basic-auth.ini. It holds a password: write it for its owner alone."""
    # Everybody with an account may read; what they make is theirs; the rest is granted. The cache spares
    # several slow password hashes for each request; a changed password counts after that many seconds. A
    # percent sign begins a reference in such a file.
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {database_url.replace('%', '%%')}\n"
        "admin_username = admin\n"
        "auth_cache_ttl_seconds = 60\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
