package dataset

// Limits for datasets. All are far above real datasets.
const (
	maxCache      = 256 << 20 // bytes of decoded pixels that are kept; images of larger sets are decoded again in every epoch
	maxResolution = 4096      // pixels
	maxImages     = 1 << 24   // images in an IDX file; the largest known, MNIST8M, has 8.1 million
	maxRecords    = 1 << 17   // records of CIFAR, which has 60,000 in all

	maxText = 1 << 20 // bytes of labels, captions and names of classes
)
