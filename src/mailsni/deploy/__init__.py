"""From the plan to what is live: stage, publish, reload, confirm, commit or roll back."""
