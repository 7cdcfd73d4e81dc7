// What products of tiles share: which rows a tile has, and what becomes of its results. Parameters: late, tile,
// width (of y), ending, bias, slots; needs bindings `y`, `bias` where there is one, and `step`, or `order` and `tiles`
// of slots (expert_groups.wgsl).

# include "shimmy/common/ending.wgsl"
# set gated = ending in ("swiglu", "geglu")

# if slots
// Rows are slots in the order of their experts, those of a tile have one expert.
var<private> tile_expert: u32;
var<private> tile_end: u32;
// The first row of a tile.
fn tile_begin(number: u32) -> u32 {
    let tile = tiles[number];
    tile_expert = tile.x - ${slots.here.start}u;
    tile_end = ${"tile.z" if slots.whole else "select(0u, tile.z, tile.x >= %du && tile.x < %du)" % (slots.here.start, slots.here.stop)};
    return tile.y;
}
fn tile_rows() -> u32 { return tile_end; }
# else
# include "shimmy/common/step.wgsl"
fn tile_begin(number: u32) -> u32 { return number * ${tile.rows}u; }
fn tile_rows() -> u32 { return ${"step_outputs()" if late else "step_rows()"}; }
# endif
// The row of x for a row of the result; past the end, that of the last.
fn tile_x_row(index: u32) -> u32 {
    let row = min(index, tile_rows() - 1u);
# if slots
    return order[row]${" / %du" % slots.used if not slots.own};
# else
    return ${"row" if not late else "step_output(row)" if picked else "step_first_output() + row"};
# endif
}
// The row of the matrix for column `place` of a tile that begins at `column` of y; past the end, the last.
fn tile_matrix_row(column: u32, place: u32) -> u32 {
# if gated
# set half = tile.columns // 2
    // Half of the tile is of gate's rows, half of up's.
    let row = min(column + place % ${half}u, ${width - 1}u) + place / ${half}u * ${width * (slots.here | length if slots else 1)}u;
# else
    let row = min(column + place, ${width - 1}u);
# endif
    return ${"tile_expert * %du + row" % width if slots else "row"};
}
fn tile_store(index: u32, column: u32, ${"gate: f32, up: f32" if gated else "sum: f32"}) {
    if (index >= tile_rows() || column >= ${width}u) { return; }
    let at = ${"order[index]" if slots else "(step_first_output() + index)" if late else "index"} * ${y.stride}u + ${y.offset}u + column;
# if gated
    y[at] = gated(gate${" + bias[%du + column]" % y.offset if bias}, up${" + bias[%du + column]" % (y.offset + width) if bias});
# else
    let product = sum${" + bias[%du + column]" % y.offset if bias};
    y[at] = ${{"store": "product", "add": "y[at] + product", "gelu": "gelu(product)"}[ending]};
# endif
}
