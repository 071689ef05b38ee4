"""Front doors to a cluster and to this machine; installed as `unicscale_launch`."""
