// The second level takes over after 64 keys, not 128.
#define LEVEL_KEYS 64
#include "../sage2_8b_sm90.cu"
