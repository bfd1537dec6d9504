"""The app's own process, and the engine as the app sees it.

`session` gives the app its terminal and sees to its runs when it has ended, `launcher` lets them go on without the
shell, `engine_backend` joins the app to the engine, `forecast_text` puts forecasts into lines.
"""
