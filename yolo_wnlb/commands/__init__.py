"""The commands of `yolo-wnlb`: each is a table of its options and a function that runs it."""
