// y = x @ weight.T of rows in 8 bits: tiles of ${tile.rows} x ${tile.columns} results, ${tile.each_rows} x ${tile.each_columns} of them by an
// invocation. While the products of a block of 32 columns are added up, the next block is on its way to registers, then
// to the other half of the workgroup's memory. Sums are exact integers for ${layout.group} columns, then F32, in order.

# import layout.shader as weights
# from "shimmy/common/share.wgsl" import each, stored
# set first = layout.parts | length
# set groups = 32 // layout.group
# set zero = layout.offsets - layout.bias if layout.offsets is integer else none
# set blocks = (columns + 31) // 32
${weights.bindings(layout, "w", 0)}
# if bias
@group(0) @binding(${first}) var<storage, read> bias: array<f32>;
# set first = first + 1
# endif
@group(0) @binding(${first}) var<storage, read> xq: array<vec4<u32>>;
@group(0) @binding(${first + 1}) var<storage, read> xd: array<vec2<u32>>;
@group(0) @binding(${first + 2}) var<storage, read_write> y: array<f32>;
# if slots
@group(0) @binding(${first + 3}) var<storage, read> order: array<u32>;
@group(0) @binding(${first + 4}) var<storage, read> tiles: array<vec4<u32>>;
# else
@group(0) @binding(${first + 3}) var<storage, read> step: array<u32>;
# endif

${weights.functions(layout, "w", columns)}
# include "shimmy/common/tile.wgsl"

# set scale_type = "vec2<f32>" if zero is none else "f32"
// Of two blocks: all rows of 16 columns, then of the other 16.
var<workgroup> x_codes: array<array<vec4<u32>, ${tile.rows}>, ${2 * tile.buffers}>;
var<workgroup> x_scales: array<array<f32, ${tile.rows}>, ${2 * tile.buffers}>;
var<workgroup> w_codes: array<array<vec4<u32>, ${tile.columns}>, ${2 * tile.buffers}>;
var<workgroup> w_scales: array<array<${scale_type}, ${tile.columns}>, ${groups * tile.buffers}>;
# if zero != 0
// Sums of the codes of x${"" if zero is none else ", times -%d: less the code of weight 0" % zero}.
var<workgroup> x_sums: array<array<i32, ${tile.rows}>, ${2 * tile.buffers}>;
# endif

# macro load(block)
# call(u, e, guard) each(2 * tile.rows, tile.workgroup)
    xq${u} = xq[x_at${u} + 2u * ${block}];
    xd${u} = xd[x_at${u} / 2u + ${block}];
# endcall
# call(u, e, guard) each(tile.columns, tile.workgroup)
    words${u} = w_words(w_row${u}, ${block});
# for g in range(groups)
    scale${u}_${g} = w_scale(w_row${u}, ${block} * ${groups}u + ${g}u)${"" if zero is none else ".x"};
# endfor
# endcall
# endmacro

# macro store(half)
# call(u, e, guard) each(2 * tile.rows, tile.workgroup)
    ${guard}{
        let part = 2u * ${half} + ${e} % 2u;
        x_codes[part][${e} / 2u] = xq${u};
        x_scales[part][${e} / 2u] = bitcast<f32>(xd${u}.x);
# if zero != 0
        let sum = extractBits(bitcast<i32>(xd${u}.y), ${e} % 2u * 16u, 16u);
        x_sums[part][${e} / 2u] = sum${"" if zero is none else " * %d" % -zero};
# endif
    }
# endcall
# call(u, e, guard) each(tile.columns, tile.workgroup)
    ${guard}{
# for h in (0, 1)
        w_codes[2u * ${half} + ${h}u][${e}] = vec4<u32>(
            words${u}[${4 * h}], words${u}[${4 * h + 1}], words${u}[${4 * h + 2}], words${u}[${4 * h + 3}]);
# endfor
# for g in range(groups)
        w_scales[${half} * ${groups}u + ${g}u][${e}] = scale${u}_${g};
# endfor
    }
# endcall
# endmacro

@compute @workgroup_size(${tile.workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let tx = li % ${tile.across}u;
    let ty = li / ${tile.across}u;
    let row = tile_begin(at.y);
# if slots
    if (row >= tile_rows()) { return; }
# endif
    let column = at.x * ${tile.width(ending)}u;
# call(u, e, guard) each(2 * tile.rows, tile.workgroup)
    let x_at${u} = tile_x_row(row + ${e} / 2u) * ${2 * blocks}u + ${e} % 2u;
    var xq${u}: vec4<u32>;
    var xd${u}: vec2<u32>;
# endcall
# call(u, e, guard) each(tile.columns, tile.workgroup)
    let w_row${u} = tile_matrix_row(column, ${e});
    var words${u}: array<u32, 8>;
# for g in range(groups)
    var scale${u}_${g}: ${scale_type};
# endfor
# endcall
# for i, j in tile.results
    var sum${i}_${j} = 0.0;
# endfor
    ${load("0u")}
    ${store("0u")}
    workgroupBarrier();
    for (var block = 0u; block < ${blocks}u; block++) {
# if tile.buffers == 1
        let now = 0u;
        let other = 0u;
# else
        let now = block % 2u;
        let other = 1u - now;
# endif
        let next = min(block + 1u, ${blocks - 1}u);
        ${load("next")}
# for g in range(groups)
        {
# if zero != 0
# for i in range(tile.each_rows)
        let x_sum${i} = x_sums[2u * now + ${g}u][ty + ${i * tile.down}u]
            ${"" if groups == 2 else "+ x_sums[2u * now + 1u][ty + %du]" % (i * tile.down)};
# endfor
# endif
# for i, j in tile.results
        var dot${i}_${j} = ${"x_sum%d" % i if zero else "0"};
# endfor
# for h in ([g] if groups == 2 else [0, 1])
        {
# for i in range(tile.each_rows)
            let x${i} = x_codes[2u * now + ${h}u][ty + ${i * tile.down}u];
# endfor
# for j in range(tile.each_columns)
            let w${j} = w_codes[2u * now + ${h}u][tx + ${j * tile.across}u];
# endfor
# for c in "xyzw"
# for i, j in tile.results
            dot${i}_${j} += dot4I8Packed(x${i}.${c}, w${j}.${c});
# endfor
# endfor
        }
# endfor
# for j in range(tile.each_columns)
        let w_scale${j} = w_scales[now * ${groups}u + ${g}u][tx + ${j * tile.across}u];
# endfor
# for i in range(tile.each_rows)
        let x_scale${i} = x_scales[2u * now + ${g}u][ty + ${i * tile.down}u];
# endfor
# for i, j in tile.results
# if zero is none
        sum${i}_${j} = fma(x_scale${i} * f32(dot${i}_${j}), w_scale${j}.x, sum${i}_${j});
        sum${i}_${j} = fma(x_scale${i} * f32(x_sum${i}), w_scale${j}.y, sum${i}_${j});
# else
        sum${i}_${j} = fma(x_scale${i} * f32(dot${i}_${j}), w_scale${j}, sum${i}_${j});
# endif
# endfor
        }
# endfor
# if tile.buffers == 1
        workgroupBarrier();
# endif
        ${store("other")}
        workgroupBarrier();
    }
    ${stored(tile, ending in ("swiglu", "geglu"))}
}
