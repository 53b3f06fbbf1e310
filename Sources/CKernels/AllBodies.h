// All kernels of one instruction set, and their table. Included with SET, COORD_FMA, COORD_PANEL_ROWS, COORD_PANEL_VECTORS and
// COORD_PAIRS defined, which it undefines.

#include "KernelBodies.h"
#include "OptimizerBodies.h"
#include "LayerBodies.h"
#include "TileBodies.h"
#include "FewRowsBodies.h"
#include "DepthwiseBodies.h"

#define COORD_WAY(name) SET(name)
#define COORD_STEP 1
#include "ProductBodies.h"
#include "WinogradBodies.h"
#undef COORD_WAY
#undef COORD_STEP

// The same with operands rounded to bfloat16; where the CPU multiplies pairs, two steps of the contraction in one.
#define COORD_ROUNDS
#define COORD_WAY(name) SET(rounded_##name)
#define COORD_STEP (1 + COORD_PAIRS)
#include "RoundingBodies.h"
#include "ProductBodies.h"
#include "WinogradBodies.h"
#undef COORD_ROUNDS
#undef COORD_WAY
#undef COORD_STEP

#include "KernelTable.h"
#undef SET
#undef COORD_FMA
#undef COORD_PANEL_ROWS
#undef COORD_PANEL_VECTORS
#undef COORD_PAIRS
