"""What a run leaves behind to be judged by: rows of figures (``rows``) and the page that shows them (``report``)."""
