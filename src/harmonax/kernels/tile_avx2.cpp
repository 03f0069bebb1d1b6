#define HX_NAMESPACE avx2
#define HX_NAME "avx2"
#define HX_BYTES 32
#define HX_ROWS 6
#define HX_VECTORS 2
#include "tile.inl"
