"""The engine as the app sees it, and the app's own process: session, launcher, forecasts in words."""
