"""Files of predicted cells that other programs open, one module a format."""

# What is written of an image, by the name that users ask for it with: the end of the file's name.
FORMATS = {'labels': '_labels.ome.tif', 'classes': '_classes.ome.tif', 'geojson': '.geojson', 'rois': '_rois.zip',
           'csv': '.csv', 'parquet': '.parquet', 'coco': '.coco.json', 'overlay': '_overlay.png', 'viewer': '.html'}
DEFAULT_FORMATS = 'labels', 'geojson', 'csv', 'overlay', 'viewer'
