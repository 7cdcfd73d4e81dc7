// What products of tiles share: which rows a tile has, and what becomes of its results. Parameters: late,
// matrix_rows, epilogue, bias; needs bindings `y`, `step`, and `bias` where there is one.

# include "shimmy/common/step.wgsl"

fn tile_rows() -> u32 { return ${"step_outputs()" if late else "step_rows()"}; }
// The row of x for a row of the result; past the end, that of the last.
fn tile_x_row(index: u32) -> u32 {
    let row = min(index, tile_rows() - 1u);
    return ${"step_output(row)" if late else "row"};
}
fn tile_matrix_row(index: u32) -> u32 { return min(index, ${matrix_rows - 1}u); }
fn tile_store(index: u32, column: u32, sum: f32) {
    if (index >= tile_rows() || column >= ${matrix_rows}u) { return; }
    let at = ${"(step_first_output() + index)" if late else "index"} * ${matrix_rows}u + column;
# set result = "sum + bias[column]" if bias else "sum"
    y[at] = ${"y[at] + (%s)" % result if epilogue == "add" else result};
}
