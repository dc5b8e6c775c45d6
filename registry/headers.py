"""What Greenroom's own client tells the guard besides MLflow's API. Values are percent-encoded UTF-8."""

ACTOR_HEADER = "X-Greenroom-Actor"
REASON_HEADER = "X-Greenroom-Reason"
ACTION_HEADER = "X-Greenroom-Action"
ROLLBACK = "rollback"
