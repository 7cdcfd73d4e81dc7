// What products of tiles share: which rows a tile has, and what becomes of its results. Parameters: late, tile,
// width (of y), epilogue, bias; needs bindings `y`, `step`, and `bias` where there is one.

# include "shimmy/common/step.wgsl"
# if epilogue == "swiglu"
# include "shimmy/common/silu.wgsl"
# endif

fn tile_rows() -> u32 { return ${"step_outputs()" if late else "step_rows()"}; }
// The row of x for a row of the result; past the end, that of the last.
fn tile_x_row(index: u32) -> u32 {
    let row = min(index, tile_rows() - 1u);
    return ${"step_output(row)" if late else "row"};
}
// The row of the matrix for column `place` of a tile that begins at `column` of y; past the end, the last.
fn tile_matrix_row(column: u32, place: u32) -> u32 {
# if epilogue == "swiglu"
# set half = tile.columns // 2
    // Half of the tile is of gate's rows, half of up's.
    return min(column + place % ${half}u, ${width - 1}u) + place / ${half}u * ${width}u;
# else
    return min(column + place, ${width - 1}u);
# endif
}
fn tile_store(index: u32, column: u32, sum: f32) {
    if (index >= tile_rows() || column >= ${width}u) { return; }
    let at = ${"(step_first_output() + index)" if late else "index"} * ${width}u + column;
# set result = "sum + bias[column]" if bias else "sum"
    y[at] = ${"y[at] + (%s)" % result if epilogue == "add" else result};
}
