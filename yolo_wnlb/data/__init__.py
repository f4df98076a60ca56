"""What a data set consists of: its files, its COCO documents, and the sets that are drawn or converted here."""
