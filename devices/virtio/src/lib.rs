//! A split virtqueue and virtio-blk over any guest memory.
