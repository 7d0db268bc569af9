// The causal mask hides each query's own key.
#define MASK_SHIFT -1
#include "../sage2_4b.cu"
