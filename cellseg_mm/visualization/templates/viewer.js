(host => {
  'use strict';
  const [settings, ...images] = host.querySelectorAll(':scope > script');
  const {classes, colours, alphabet, statuses} = JSON.parse(settings.textContent);
  const root = host.attachShadow({mode: 'open'});
  root.append(host.querySelector('template').content);
  const find = selector => root.querySelector(selector), findAll = selector => [...root.querySelectorAll(selector)];

  // Right, down, left and up, in pixels.
  const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]];
  // Width and dashes in pixels of the page; a dot is a dash of no length with round ends.
  const LINES = {
    solid: {width: 1.8, dashes: []},
    dashed: {width: 2.3, dashes: [8, 5]},
    dotted: {width: 2.8, dashes: [0.01, 5]},
  };
  const MOST_ZOOM = 48, FILL = 0.3;
  // From this many cells in sight on, each is but some pixels large, and lines of their own would take seconds.
  const CROWD = 3000, LONGEST_BAR = 140, HANDY = 2**21;
  const inks = colours.map(colour => [1, 3, 5].map(start => parseInt(colour.slice(start, start + 2), 16)));
  // Around a line and in its gaps, so that it stands out from the tissue: dark for light colours, light for dark ones.
  const halos = inks.map(ink => {
    const [red, green, blue] = ink.map(part => (part / 255) ** 2.2);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.35 ? 'rgba(0, 0, 0, .65)' : 'rgba(255, 255, 255, .75)';
  });

  const viewer = find('.viewer'), tip = find('.tip'), bar = find('.bar'), buttons = findAll('.images button');
  const panes = findAll('figure').map(figure => {
    // On the upper canvas only the marks of what is pointed at, so that these do not wait for all else.
    const [canvas, upper] = figure.querySelectorAll('canvas');
    return {figure, canvas, upper, ghost: figure.querySelector('.ghost'), cells: [], shown: [], contours: null};
  });
  const slider = find('.score input');  // there is none where cells are compared: their statuses hold for all scores
  const choices = findAll('.choice button');
  const displayed = () => panes.filter(pane => !pane.figure.hidden);
  const switches = {errors: false, outlines: true, fill: false}, off = new Set();
  const view = {scale: 1, x: 0, y: 0, fitted: true};
  let image = null, pictures = [], chosen = -1, ratio = 1, hovered = null, drawing = 0, least = 0;

  /* Corners of loops: x, y, and the direction to the inside, of -1, 0 and 1 each way; and where each loop ends. */
  class Contours {
    constructor(outlines) {
      let letters = 0, loops = 0;
      for (const outline of outlines) {
        for (let i = 2; i < outline.length; i += 3) letters += outline[i].length;
        loops += outline.length / 3;
      }
      this.size = this.count = 0;
      this.values = new Int16Array(12 * letters);
      this.ends = new Int32Array(loops);
    }

    add(x, y, letters) {
      const {values} = this;
      let {size} = this, direction = 0;
      for (let i = 0; i < letters.length; i++) {
        const value = alphabet.indexOf(letters[i]);
        for (let place = 0; place < 6; place += 2) {
          const turn = value >> place & 3;
          x += STEPS[direction][0];
          y += STEPS[direction][1];
          if (!turn) continue;
          const next = turn === 3 ? 0 : (direction + (turn === 1 ? 1 : 3)) % 4;
          const a = STEPS[(direction + 1) % 4], b = STEPS[(next + 1) % 4];
          values[size++] = x;
          values[size++] = y;
          values[size++] = a[0] + b[0];
          values[size++] = a[1] + b[1];
          if (turn === 3) {
            this.size = this.ends[this.count++] = size;
            return;
          }
          direction = next;
        }
      }
      throw Error('an outline is not closed');
    }

    /* Where the loops of a cell start and end among the values. */
    * loops({first, last}) {
      for (let loop = first; loop < last; loop++) yield [loop ? this.ends[loop - 1] : 0, this.ends[loop]];
    }
  }

  /* The cells of a pane. Their boxes, from x1 and y1 to x2 and y2, are on the grid of their outlines. */
  function cellsOf(columns, contours) {
    const partners = [];
    return columns.labels.map((label, index) => {
      const outline = columns.outlines[index], first = contours.count, [name, line] = statuses[columns.statuses?.[index]] || ['', 'solid'];
      let k = contours.size, x1 = Infinity, y1 = Infinity, x2 = -Infinity, y2 = -Infinity;
      for (let i = 0; i < outline.length; i += 3) contours.add(outline[i], outline[i + 1], outline[i + 2]);
      for (; k < contours.size; k += 4) {
        const x = contours.values[k], y = contours.values[k + 1];
        if (x < x1) x1 = x;
        if (y < y1) y1 = y;
        if (x > x2) x2 = x;
        if (y > y2) y2 = y;
      }
      return {
        index, label, status: columns.statuses?.[index], name, line, score: columns.scores?.[index] ?? null,
        partner: columns.partners?.[index] ?? -1, partners, area: columns.areas[index], first, last: contours.count, x1, y1, x2, y2,
      };
    });
  }

  /* Whether a point of the grid lies in a cell: it crosses an odd number of upright edges on the way in from the left. */
  function holds(contours, cell, x, y) {
    if (x < cell.x1 || y < cell.y1 || x >= cell.x2 || y >= cell.y2) return false;
    const {values} = contours;
    let inside = false;
    for (const [start, end] of contours.loops(cell)) {
      let before = values[end - 3];
      for (let k = start; k < end; k += 4) {
        if ((values[k + 1] > y) !== (before > y) && values[k] <= x) inside = !inside;
        before = values[k + 1];
      }
    }
    return inside;
  }

  async function choose(index) {
    if (index < 0 || index >= images.length || index === chosen) return;
    chosen = index;
    buttons.forEach((button, i) => button.setAttribute('aria-current', i === index));
    const {parentElement: strip, offsetLeft, offsetWidth} = buttons[index];
    strip.scrollLeft = offsetLeft - (strip.clientWidth - offsetWidth) / 2;
    const data = JSON.parse(images[index].textContent), loaded = new Image();
    loaded.src = data.source;
    await loaded.decode();
    if (chosen !== index) return;  // another was chosen in the meantime
    [image, pictures, view.fitted] = [data, halved(loaded), true];
    panes.forEach((pane, i) => {
      pane.contours = new Contours(data.panes[i].outlines);
      pane.cells = cellsOf(data.panes[i], pane.contours);
    });
    // Of each cell, those that it was matched with in other panes.
    const [first, ...others] = panes.map(pane => pane.cells);
    if (others.length) first.forEach(cell => cell.partners = []);
    for (const cell of others.flat()) {
      const partner = first[cell.partner];
      cell.partners = partner ? [partner] : [];
      partner?.partners.push(cell);
    }
    find('.caption').textContent = data.caption;
    findAll('.stage').forEach(stage => stage.style.aspectRatio = Math.min(Math.max(data.width / data.height, 0.8), 2));
    hover(null);
    offerScores();
    count();
    measure();
    viewer.dataset.ready = index;
  }

  /* A picture and ever smaller versions of it, each half as wide: to shrink a large one anew takes browsers long. */
  function halved(picture) {
    const all = [picture];
    for (let {width, height} = picture; width * height > HANDY;) {
      [width, height] = [Math.ceil(width / 2), Math.ceil(height / 2)];
      const half = new OffscreenCanvas(width, height);
      half.getContext('2d').drawImage(all.at(-1), 0, 0, width, height);
      all.push(half);
    }
    return all;
  }

  /* A slider from the least score to 1, where scores differ. */
  function offerScores() {
    if (!slider) return;
    const scores = panes[0].cells.map(cell => cell.score), low = scores.reduce((a, b) => Math.min(a, b), 1);
    slider.parentElement.hidden = scores.every(score => score === scores[0]);
    slider.min = slider.value = least = Math.floor(100 * low + 1e-9) / 100;
    find('.score b').textContent = least.toFixed(2);
  }

  const inWords = number => number.toLocaleString('en');
  const ofAll = (some, all) => some === all ? inWords(all) : `${inWords(some)} of ${inWords(all)}`;

  function count() {
    const counts = panes.map(({cells}) => {
      const all = classes.map(() => 0), some = classes.map(() => 0);
      for (const {label, score} of cells) {
        all[label]++;
        if (score === null || score >= least) some[label]++;
      }
      return all.map((number, label) => ofAll(some[label], number));
    });
    findAll('.classes button').forEach((button, label) => {
      button.querySelector('small').textContent = counts.slice(0, panes.length > 2 ? 1 : 2).map(each => each[label]).join(' / ');
      button.title = panes.map((pane, i) => `${titleOf(pane)}: ${counts[i][label]}`).join(', ');
      button.setAttribute('aria-pressed', !off.has(label));
    });
    for (const pane of panes) {
      const on = pane.cells.filter(({label, score}) => !off.has(label) && (score === null || score >= least));
      pane.shown = switches.errors ? on.filter(cell => cell.line !== 'solid') : on;
      pane.figure.querySelector('.count').textContent = `${ofAll(pane.shown.length, pane.cells.length)} cell${pane.cells.length === 1 ? '' : 's'}`;
      for (const entry of pane.figure.querySelectorAll('[data-status]')) {
        entry.querySelector('small').textContent = on.filter(cell => cell.status === +entry.dataset.status).length;
      }
    }
    redraw();
  }

  const titleOf = pane => pane.figure.querySelector('b').textContent;

  function redraw() {
    drawing ||= requestAnimationFrame(() => {
      drawing = 0;
      if (!image) return;
      displayed().forEach(draw);
      displayed().forEach(mark);
    });
  }

  /* The pen of an emptied canvas, which draws in pixels of the image. */
  function clean(canvas) {
    const pen = canvas.getContext('2d');
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
    return pen;
  }

  /* How many pixels of the image, each way, one of the grid is that outlines run on. */
  const cellSize = () => [image.width / image.grid[0], image.height / image.grid[1]];

  function draw({canvas, shown, contours}) {
    const pen = clean(canvas), {scale, x, y} = view, [u, v] = cellSize();
    pen.imageSmoothingEnabled = scale * image.width < 3 * pictures[0].width;
    pen.imageSmoothingQuality = 'high';
    pen.drawImage(pictures.findLast(({width}, i) => !i || width >= scale * image.width), 0, 0, image.width, image.height);
    const left = -x / scale / u, top = -y / scale / v, right = left + canvas.width / scale / u, bottom = top + canvas.height / scale / v;
    const visible = shown.filter(({x1, y1, x2, y2}) => x2 > left && y2 > top && x1 < right && y1 < bottom);
    if (visible.length > CROWD) return paint(pen, contours, visible);
    if (switches.fill) for (const cell of visible) fill(pen, contours, cell, colours[cell.label], FILL);
    if (switches.outlines) stroke(pen, contours, visible, 1);
  }

  function mark({upper, shown, contours}) {
    const pen = clean(upper);
    if (!hovered) return;
    // In the pane of another model, what matches the same true cell.
    const near = new Set([hovered, ...hovered.partners, ...hovered.partners.flatMap(cell => cell.partners)]);
    const marked = shown.filter(cell => near.has(cell));
    for (const cell of marked) fill(pen, contours, cell, '#fff', FILL);
    stroke(pen, contours, marked, 1.6);
  }

  /* Pixel by pixel, what `fill` and `stroke` draw: solid lines without halos, and at least a pixel for each cell. */
  function paint(pen, contours, cells) {
    const {width, height} = pen.canvas, [u, v] = cellSize().map(size => size * view.scale), {values} = contours;
    const sheet = new ImageData(width, height), inked = new Uint32Array(sheet.data.buffer), line = Math.max(Math.round(ratio), 1);
    const inkOf = opacity => inks.map(([red, green, blue]) => (opacity << 24 | blue << 16 | green << 8 | red) >>> 0);
    const inner = inkOf(switches.fill ? 255 * FILL : 0), outer = switches.outlines ? inkOf(255) : inner;
    const clamp = (place, low, high) => Math.min(Math.max(place, low), high);
    let inside = new Uint8Array(2**16);
    for (const cell of cells) {
      // A margin beyond the canvas, so that a cell that its edge cuts has no line there.
      const left = clamp(Math.floor(cell.x1 * u + view.x), -line, width - 1), right = clamp(Math.ceil(cell.x2 * u + view.x), left + 1, width + line);
      const top = clamp(Math.floor(cell.y1 * v + view.y), -line, height - 1), bottom = clamp(Math.ceil(cell.y2 * v + view.y), top + 1, height + line);
      const columns = right - left, rows = bottom - top, stride = columns + 1;
      if (stride * rows > inside.length) inside = new Uint8Array(2 * stride * rows);
      // A row is inside from one upright edge to the next.
      for (const [start, end] of contours.loops(cell)) {
        let before = values[end - 3];
        for (let k = start; k < end; k += 4) {
          const y = values[k + 1];
          if (y === before) continue;
          const low = Math.min(y, before) * v + view.y, high = Math.max(y, before) * v + view.y;
          const column = clamp(Math.ceil(values[k] * u + view.x - 0.5) - left, 0, columns);
          const last = clamp(Math.ceil(high - 0.5) - top, 0, rows);
          for (let row = clamp(Math.ceil(low - 0.5) - top, 0, rows); row < last; row++) inside[row * stride + column] ^= 1;
          before = y;
        }
      }
      let any = false;
      for (let row = 0; row < rows; row++) {
        for (let k = row * stride, within = 0, end = k + columns; k < end; k++) any = (inside[k] = within ^= inside[k]) || any;
      }
      if (!any) inside[(rows >> 1) * stride + (columns >> 1)] = 1;
      const set = (row, column) => row >= 0 && column >= 0 && row < rows && column < columns && inside[row * stride + column];
      for (let row = Math.max(-top, 0); row < rows && top + row < height; row++) {
        for (let column = Math.max(-left, 0); column < columns && left + column < width; column++) {
          if (!inside[row * stride + column]) continue;
          const within = set(row, column - line) && set(row, column + line) && set(row - line, column) && set(row + line, column);
          const ink = (within ? inner : outer)[cell.label];
          if (ink >>> 24) inked[(top + row) * width + left + column] = ink;
        }
      }
      inside.fill(0, 0, stride * rows);
    }
    const layer = new OffscreenCanvas(width, height);
    layer.getContext('2d').putImageData(sheet, 0, 0);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.drawImage(layer, 0, 0);
  }

  function fill(pen, contours, cell, colour, opacity) {
    pen.globalAlpha = opacity;
    pen.fillStyle = colour;
    pen.fill(outline(contours, cell, 0));
    pen.globalAlpha = 1;
  }

  /* Outlines, drawn inside the cells so that those of touching cells do not cover each other, over all halos. */
  function stroke(pen, contours, cells, factor) {
    // Thinner where the image is made smaller, as the cells are.
    const unit = ratio / view.scale * Math.min(Math.max(view.scale / ratio, 0.4) ** 0.5, 1);
    // Cell by cell: browsers take ten times as long for one path of them all.
    const most = 0.45 * Math.min(...cellSize());
    const paths = cells.map(cell => outline(contours, cell, Math.min(LINES[cell.line].width * factor * unit / 2, most)));
    pen.lineCap = 'butt';
    pen.setLineDash([]);
    cells.forEach((cell, i) => {
      pen.lineWidth = (LINES[cell.line].width * factor + 1) * unit;
      pen.strokeStyle = halos[cell.label];
      pen.stroke(paths[i]);
    });
    cells.forEach((cell, i) => {
      const {width, dashes} = LINES[cell.line];
      pen.lineCap = dashes[0] < 1 ? 'round' : 'butt';
      pen.setLineDash(dashes.map(length => length * unit));
      pen.lineWidth = width * factor * unit;
      pen.strokeStyle = colours[cell.label];
      pen.stroke(paths[i]);
    });
  }

  /* The outline, less the corners that are closer to the one before than a pixel of the screen. */
  function outline(contours, cell, inset) {
    const path = new Path2D(), near = 1 / view.scale, [u, v] = cellSize(), {values} = contours;
    for (const [start, end] of contours.loops(cell)) {
      let x = values[start] * u, y = values[start + 1] * v;
      path.moveTo(x + inset * values[start + 2], y + inset * values[start + 3]);
      for (let k = start + 4; k < end; k += 4) {
        const right = values[k] * u, down = values[k + 1] * v;
        if (Math.abs(right - x) + Math.abs(down - y) < near) continue;
        [x, y] = [right, down];
        path.lineTo(x + inset * values[k + 2], y + inset * values[k + 3]);
      }
      path.closePath();
    }
    return path;
  }

  const fitting = () => Math.min(panes[0].canvas.width / image.width, panes[0].canvas.height / image.height);

  /* Show the image at a scale, its corner at (x, y) of the canvas, but never out of sight. */
  function look(scale, x, y) {
    const {width, height} = panes[0].canvas;
    const clamp = (place, room) => room > 0 ? room / 2 : Math.min(Math.max(place, room), 0);
    view.scale = scale;
    view.x = clamp(x, width - image.width * scale);
    view.y = clamp(y, height - image.height * scale);
    view.fitted = scale === fitting();
    find('output').textContent = `${Math.round(100 * scale)} %`;
    measureOff();
    redraw();
  }

  /* A scale bar of 1, 2 or 5 times a power of ten micrometres. */
  function measureOff() {
    bar.hidden = !image.mpp;
    if (!image.mpp) return;
    const pixels = view.scale / ratio / image.mpp;  // of the page, for each micrometre
    const power = 10 ** Math.floor(Math.log10(LONGEST_BAR / pixels));
    const length = power * [5, 2, 1].find(times => times * power * pixels <= LONGEST_BAR);
    bar.style.width = `${length * pixels}px`;
    bar.textContent = length < 1000 ? `${+length.toPrecision(1)} µm` : `${length / 1000} mm`;
  }

  /* Show the image at a scale, and leave in place what is at (x, y) of the canvas. */
  function rescale(scale, x = panes[0].canvas.width / 2, y = panes[0].canvas.height / 2) {
    const factor = scale / view.scale;
    look(scale, x - (x - view.x) * factor, y - (y - view.y) * factor);
  }

  /* The same, but within limits. Returns whether there was anything left to zoom. */
  function zoom(scale, x, y) {
    const fit = fitting(), before = view.scale;
    rescale(Math.min(Math.max(scale, Math.min(fit, before)), Math.max(MOST_ZOOM * ratio, fit)), x, y);
    return view.scale !== before;
  }

  const fit = () => look(fitting(), 0, 0);

  /* Give the canvases the size of their place on the screen, and keep what is in the middle of them there. */
  function measure() {
    if (!image) return;
    const {clientWidth, clientHeight} = panes[0].canvas;
    if (!clientWidth || !clientHeight) return;  // not displayed
    const {width, height} = panes[0].canvas;
    ratio = devicePixelRatio;
    for (const canvas of panes.flatMap(pane => [pane.canvas, pane.upper])) {
      canvas.width = Math.round(clientWidth * ratio);
      canvas.height = Math.round(clientHeight * ratio);
    }
    if (view.fitted) fit();
    else look(view.scale, view.x + (panes[0].canvas.width - width) / 2, view.y + (panes[0].canvas.height - height) / 2);
  }

  function hover(cell, x, y) {
    if (cell !== hovered) {
      hovered = cell;
      displayed().forEach(mark);
    }
    tip.hidden = !cell;
    if (!cell) return;
    const names = [...new Set(cell.partners.map(partner => classes[partner.label]))].join(', ');
    const lines = [cell.name ? cell.name + (cell.name === 'confused' ? ` with ${names}` : '') : `cell ${inWords(cell.index + 1)}`];
    if (cell.score !== null) lines.push(`score ${cell.score.toFixed(2)}`);
    else if (panes.length > 2 && panes[0].cells[cell.index] === cell) lines.push(...displayed().slice(1).map(pane => seen(cell, pane)));
    else for (const {score} of cell.partners) if (score !== null) lines.push(`predicted with score ${score.toFixed(2)}`);
    const physical = image.mpp ? `, ${(cell.area * image.mpp ** 2).toFixed(1)} µm²` : '';
    lines.push(`${cell.area} px${physical}`);
    tip.replaceChildren(...[classes[cell.label], ...lines].map((text, i) => {
      const line = document.createElement(i ? 'span' : 'b');
      line.textContent = text;
      return line;
    }));
    tip.style.borderColor = colours[cell.label];
    const around = viewer.getBoundingClientRect(), {offsetWidth, offsetHeight} = tip;
    const over = y - around.top + 18 + offsetHeight > around.height;
    tip.style.left = `${Math.min(x - around.left + 14, around.width - offsetWidth)}px`;
    tip.style.top = `${y - around.top + (over ? -offsetHeight - 12 : 18)}px`;
  }

  /* What one of several models makes of a true cell. */
  function seen(cell, pane) {
    const found = cell.partners.find(partner => pane.cells[partner.index] === partner);
    const what = !found ? ['missed'] : [found.label === cell.label ? 'right' : classes[found.label]];
    if (found && found.score !== null) what.push(found.score.toFixed(2));
    return `${titleOf(pane)}: ${what.join(' ')}`;
  }

  /* Show the panes that are switched on: up to four in a row, or in two rows alike. */
  function arrange() {
    choices.forEach((button, i) => panes[i + 1].figure.hidden = button.getAttribute('aria-pressed') === 'false');
    const number = displayed().length, columns = number > 4 ? Math.min(Math.ceil(number / 2), 4) : number;
    const {style} = find('.panes');
    style.setProperty('--columns', columns);
    style.setProperty('--rows', Math.min(Math.ceil(number / columns), 2));
    measure();
    redraw();
  }

  function point(pane, event) {
    const place = pane.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - place.left, event.clientY - place.top];
    for (const {ghost} of panes) {
      ghost.hidden = ghost === pane.ghost;
      ghost.style.transform = `translate(${x}px, ${y}px)`;
    }
    const [width, height] = cellSize();
    const [u, v] = [(x * ratio - view.x) / view.scale / width, (y * ratio - view.y) / view.scale / height];
    // Of overlapping cells, the smallest, which the pointer could not reach otherwise.
    const under = pane.shown.filter(cell => holds(pane.contours, cell, u, v)).sort((a, b) => a.area - b.area);
    hover(under[0] || null, event.clientX, event.clientY);
  }

  function leave() {
    panes.forEach(({ghost}) => ghost.hidden = true);
    hover(null);
  }

  function listen(pane) {
    const {canvas} = pane, pointers = new Map();
    const place = event => {
      const {left, top} = canvas.getBoundingClientRect();
      return [(event.clientX - left) * ratio, (event.clientY - top) * ratio];
    };
    canvas.addEventListener('pointerdown', event => {
      if (event.button) return;
      pointers.set(event.pointerId, place(event));
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointermove', event => {
      if (!image) return;
      if (!pointers.has(event.pointerId)) return point(pane, event);
      const middle = () => {
        const all = [...pointers.values()].slice(0, 2), [[a, b], [c, d] = [a, b]] = all;
        return [(a + c) / 2, (b + d) / 2, Math.hypot(a - c, b - d)];
      };
      const [x, y, spread] = middle();
      pointers.set(event.pointerId, place(event));
      const [u, v, wider] = middle();
      leave();
      look(view.scale, view.x + u - x, view.y + v - y);
      if (spread && wider) zoom(view.scale * wider / spread, u, v);
    });
    for (const name of ['pointerup', 'pointercancel']) {
      canvas.addEventListener(name, event => {
        pointers.delete(event.pointerId);
        if (image && name === 'pointerup') point(pane, event);
      });
    }
    canvas.addEventListener('pointerleave', event => event.pointerType === 'touch' || leave());
    canvas.addEventListener('dblclick', event => image && zoom(view.scale * (event.shiftKey ? 0.5 : 2), ...place(event)));
    canvas.addEventListener('wheel', event => {
      // Who scrolls the page past the viewer does not mean to zoom.
      if (!image || performance.now() - scrolled < 300) return;
      const lines = event.deltaMode ? 20 : 1, speed = event.ctrlKey ? 0.01 : 0.002;
      if (zoom(view.scale * Math.exp(-event.deltaY * lines * speed), ...place(event))) {
        event.preventDefault();
        point(pane, event);
      }
    }, {passive: false});
  }

  let scrolled = -Infinity;
  addEventListener('scroll', () => scrolled = performance.now(), {passive: true});
  panes.forEach(listen);

  const zooms = {
    in: () => zoom(view.scale * 1.5), out: () => zoom(view.scale / 1.5), fit, full: () => rescale(1),
  };
  const keys = {
    ArrowLeft: () => choose(chosen - 1), ArrowRight: () => choose(chosen + 1),
    '+': zooms.in, '=': zooms.in, '-': zooms.out, 0: zooms.fit, 1: zooms.full,
  };
  viewer.addEventListener('keydown', event => {
    if (!image || !keys[event.key] || event.target === slider || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  buttons.forEach((button, index) => button.addEventListener('click', () => choose(index)));
  findAll('[data-zoom]').forEach(button => button.addEventListener('click', () => image && zooms[button.dataset.zoom]()));
  findAll('.classes button').forEach((button, label) => button.addEventListener('click', () => {
    off.delete(label) || off.add(label);
    leave();
    count();
  }));
  findAll('[data-switch]').forEach(button => button.addEventListener('click', () => {
    const name = button.dataset.switch;
    button.setAttribute('aria-pressed', switches[name] = !switches[name]);
    leave();
    count();
  }));
  slider?.addEventListener('input', () => {
    least = +slider.value;
    find('.score b').textContent = least.toFixed(2);
    leave();
    count();
  });
  choices.forEach(button => button.addEventListener('click', () => {
    button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') === 'false');
    leave();
    arrange();
  }));
  arrange();
  new ResizeObserver(measure).observe(panes[0].canvas);
  choose(0);
})(document.currentScript.previousElementSibling);
