// The instruction set that every machine of the architecture has: SSE2 on x86-64, NEON on arm64.
#define HX_NAMESPACE plain
#define HX_NAME "plain"
#define HX_BYTES 16
#define HX_ROWS 6
#if defined(__aarch64__) || defined(_M_ARM64)
#undef HX_NAME
#define HX_NAME "neon"
#define HX_VECTORS 4
#else
#define HX_VECTORS 2
#endif
#include "tile.inl"
