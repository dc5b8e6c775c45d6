"""Request → rows → model → response; explanations; no HTTP here."""
