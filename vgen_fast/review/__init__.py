"""The review screen: 25 clips of a cache at once, looked at and thrown out by people."""
