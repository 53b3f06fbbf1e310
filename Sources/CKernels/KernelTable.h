// The table of the kernels of one instruction set; included after the bodies, once an instruction set.

static const coord_kernels SET(table) = {
    .add = SET(add), .tree_sum = SET(tree_sum), .divide = SET(divide), .scale = SET(scale),
    .sum_squares = SET(sum_squares), .moments = SET(moments), .normalize = SET(normalize),
    .bias_rows = SET(bias_rows), .bias_planes = SET(bias_planes), .column_sums = SET(column_sums),
    .row_sums = SET(row_sums), .relu = SET(relu), .relu_backward = SET(relu_backward), .softmax = SET(softmax),
    .cross_entropy = SET(cross_entropy), .im2col = SET(im2col), .col2im = SET(col2im), .maxpool = SET(maxpool),
    .maxpool_backward = SET(maxpool_backward), .sgd = SET(sgd), .adamw = SET(adamw),
    COORD_OPTIMIZER_KERNELS(COORD_ENTRY)
    COORD_LAYER_KERNELS(COORD_ENTRY)
    COORD_WINOGRAD_KERNELS(COORD_ENTRY)
    COORD_FEW_ROWS_KERNELS(COORD_ENTRY)
    COORD_DEPTHWISE_KERNELS(COORD_ENTRY)
    COORD_PRODUCT_KERNELS(COORD_ENTRY)
};
