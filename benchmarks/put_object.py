"""A plain client of S3, as anybody would write it: uploads its stdin.

Run as `python put_object.py ENDPOINT BUCKET KEY`, with the credentials in the environment.
"""

import sys

import boto3
from botocore.config import Config

endpoint, bucket, key = sys.argv[1:]
client = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
client.upload_fileobj(sys.stdin.buffer, bucket, key)
