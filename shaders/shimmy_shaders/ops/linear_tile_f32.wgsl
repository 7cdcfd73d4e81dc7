// y = x @ weight.T in F32: tiles of ${tile.rows} x ${tile.columns} results, ${tile.each_rows} x ${tile.each_columns} of them by an invocation. While the
// products of ${tile.chunk} columns are added up, in order, the next columns are on their way to registers, weights as
// floats, then to the workgroup's memory.

# import layout.shader as weights
# from "shimmy/common/share.wgsl" import each, stored
# set first = layout.parts | length
# set blocks = (columns + 31) // 32
# set quads = tile.chunk // 4
${weights.bindings(layout, "w", 0)}
# if bias
@group(0) @binding(${first}) var<storage, read> bias: array<f32>;
# set first = first + 1
# endif
# set aligned = columns % 4 == 0
@group(0) @binding(${first}) var<storage, read> x: array<${"vec4<f32>" if aligned else "f32"}>;
@group(0) @binding(${first + 1}) var<storage, read_write> y: array<f32>;
# if slots
@group(0) @binding(${first + 2}) var<storage, read> order: array<u32>;
@group(0) @binding(${first + 3}) var<storage, read> tiles: array<vec4<u32>>;
# else
@group(0) @binding(${first + 2}) var<storage, read> step: array<u32>;
# endif

${weights.functions(layout, "w", columns)}
# include "shimmy/common/tile.wgsl"

// Four columns of all rows, then the next four.
var<workgroup> x_tile: array<array<vec4<f32>, ${tile.rows}>, ${tile.buffers * quads}>;
var<workgroup> w_tile: array<array<vec4<f32>, ${tile.columns}>, ${tile.buffers * quads}>;

// Columns 4 * quad to 4 * quad + 3; zero past the end.
fn x_quad(row: u32, quad: u32) -> vec4<f32> {
# if aligned
# if columns % 32
    if (quad >= ${columns // 4}u) { return vec4<f32>(); }
# endif
    return x[row * ${columns // 4}u + quad];
# else
    let at = row * ${columns}u + quad * 4u;
    var four = vec4<f32>();
# for i in range(4)
    if (quad * 4u + ${i}u < ${columns}u) { four.${"xyzw"[i]} = x[at + ${i}u]; }
# endfor
    return four;
# endif
}

# macro load(block, part)
# call(u, e, guard) each(quads * tile.rows, tile.workgroup)
    x${u} = x_quad(x_row${u}, ${block} * 8u + ${part * quads}u + ${e} % ${quads}u);
# endcall
# call(u, e, guard) each(tile.columns, tile.workgroup)
    w${u} = w_values(w_row${u}, ${block});
# endcall
# endmacro

# macro store(buffer, part)
# call(u, e, guard) each(quads * tile.rows, tile.workgroup)
    ${guard}{ x_tile[${buffer} * ${quads}u + ${e} % ${quads}u][${e} / ${quads}u] = x${u}; }
# endcall
# call(u, e, guard) each(tile.columns, tile.workgroup)
    ${guard}{
# for q in range(quads)
        w_tile[${buffer} * ${quads}u + ${q}u][${e}] = w${u}[${part * quads + q}];
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
# call(u, e, guard) each(quads * tile.rows, tile.workgroup)
    let x_row${u} = tile_x_row(row + ${e} / ${quads}u);
    var x${u}: vec4<f32>;
# endcall
# call(u, e, guard) each(tile.columns, tile.workgroup)
    let w_row${u} = tile_matrix_row(column, ${e});
    var w${u}: array<vec4<f32>, 8>;
# endcall
# for i, j in tile.results
    var sum${i}_${j} = 0.0;
# endfor
    ${load("0u", 0)}
    ${store("0u", 0)}
    workgroupBarrier();
    for (var block = 0u; block < ${blocks}u; block++) {
        let next = min(block + 1u, ${blocks - 1}u);
# set parts = 32 // tile.chunk
# for part in range(parts)
        {
# if tile.buffers == 1
            let now = 0u;
            let other = 0u;
# else
            let now = ${"block % 2u" if parts == 1 else "%du" % part};
            let other = 1u - now;
# endif
# set last = loop.last
            ${load("next" if last else "block", 0 if last else part + 1)}
            for (var q = 0u; q < ${quads}u; q++) {
                let at = now * ${quads}u + q;
# for i in range(tile.each_rows)
                let a${i} = x_tile[at][ty + ${i * tile.down}u];
# endfor
# for j in range(tile.each_columns)
                let b${j} = w_tile[at][tx + ${j * tile.across}u];
# for c in "xyzw"
# for i in range(tile.each_rows)
                sum${i}_${j} = fma(a${i}.${c}, b${j}.${c}, sum${i}_${j});
# endfor
# endfor
# endfor
            }
# if tile.buffers == 1
            workgroupBarrier();
# endif
            ${store("other", 0 if last else part + 1)}
            workgroupBarrier();
        }
# endfor
    }
    ${stored(tile, ending in ("swiglu", "geglu"))}
}
