"""Inside the commands of Ultralytics; `patches` is the only module that touches its code."""
