"""The release procedure: builds every module with its card, publishes them, serves them and a site.

python -m hub_export.build --weights DIR --out DIR
python -m hub_export.serve DIR
python -m hub_export.publish DIR TARGET
"""
