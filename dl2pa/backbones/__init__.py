"""Networks from images [B,c,H,W] to features [B,width], and the necks from features to the metric space [B,d]."""
