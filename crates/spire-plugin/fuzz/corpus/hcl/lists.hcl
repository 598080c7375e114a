hosts = ["a:1", 2, ""]
pcrs = [0, "7", 99, true]
by = "Both"
groups = "pcr"
