#define HX_NAMESPACE avx512
#define HX_NAME "avx512"
#define HX_BYTES 64
#define HX_ROWS 6
#define HX_VECTORS 4
#include "tile.inl"
