// One scale for a tile of Q and of K.
#define PER_BLOCK 1
#include "../sage2_4b.cu"
