"""People (apprise), predictors."""
