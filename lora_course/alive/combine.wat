;; The combine of train.js, four numbers at a time: y[r, :] += sum over k of a[r, k] M[k, :]. Compiled, it stands there in base64.
;; y is (rows, columns), M is (inner, columns); step and next say how far apart the rows and the columns of a lie. Addresses and
;; steps are in bytes; `rows` and `columns` are multiples of 4. Four rows by four columns of y stay in registers.
(module
  (import "host" "memory" (memory 1))
  (func (export "combine")
    (param $y i32) (param $a i32) (param $step i32) (param $next i32) (param $M i32) (param $rows i32) (param $inner i32) (param $columns i32)
    (local $width i32) (local $j i32) (local $k i32) (local $at i32) (local $from i32)
    (local $y1 i32) (local $y2 i32) (local $y3 i32) (local $step2 i32) (local $step3 i32)
    (local $m v128) (local $p v128) (local $q v128) (local $r v128) (local $s v128)
    (local.set $width (i32.shl (local.get $columns) (i32.const 2))) ;; bytes of a row of y, and of M
    (local.set $step2 (i32.shl (local.get $step) (i32.const 1)))
    (local.set $step3 (i32.add (local.get $step2) (local.get $step)))
    (loop $four_rows
      (local.set $j (i32.const 0))
      (loop $four_columns
        (local.set $y1 (i32.add (local.get $y) (local.get $width)))
        (local.set $y2 (i32.add (local.get $y1) (local.get $width)))
        (local.set $y3 (i32.add (local.get $y2) (local.get $width)))
        (local.set $p (v128.load (local.get $y))) (local.set $q (v128.load (local.get $y1)))
        (local.set $r (v128.load (local.get $y2))) (local.set $s (v128.load (local.get $y3)))
        (local.set $at (local.get $a))
        (local.set $from (i32.add (local.get $M) (local.get $j)))
        (local.set $k (local.get $inner))
        (loop $down
          (local.set $m (v128.load (local.get $from)))
          (local.set $p (f32x4.add (local.get $p) (f32x4.mul (local.get $m) (v128.load32_splat (local.get $at)))))
          (local.set $q (f32x4.add (local.get $q) (f32x4.mul (local.get $m) (v128.load32_splat (i32.add (local.get $at) (local.get $step))))))
          (local.set $r (f32x4.add (local.get $r) (f32x4.mul (local.get $m) (v128.load32_splat (i32.add (local.get $at) (local.get $step2))))))
          (local.set $s (f32x4.add (local.get $s) (f32x4.mul (local.get $m) (v128.load32_splat (i32.add (local.get $at) (local.get $step3))))))
          (local.set $at (i32.add (local.get $at) (local.get $next)))
          (local.set $from (i32.add (local.get $from) (local.get $width)))
          (br_if $down (local.tee $k (i32.sub (local.get $k) (i32.const 1)))))
        (v128.store (local.get $y) (local.get $p)) (v128.store (local.get $y1) (local.get $q))
        (v128.store (local.get $y2) (local.get $r)) (v128.store (local.get $y3) (local.get $s))
        (local.set $y (i32.add (local.get $y) (i32.const 16)))
        (br_if $four_columns (i32.lt_u (local.tee $j (i32.add (local.get $j) (i32.const 16))) (local.get $width))))
      (local.set $y (i32.add (local.get $y3) (i32.const 16))) ;; where the row after these four begins
      (local.set $a (i32.add (local.get $a) (i32.shl (local.get $step) (i32.const 2))))
      (br_if $four_rows (i32.gt_s (local.tee $rows (i32.sub (local.get $rows) (i32.const 4))) (i32.const 0))))))
