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
  // Around a line and in its gaps, so that it stands out from the tissue: dark for light colours, light for dark ones.
  const halos = colours.map(colour => {
    const [red, green, blue] = [1, 3, 5].map(start => (parseInt(colour.slice(start, start + 2), 16) / 255) ** 2.2);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.35 ? 'rgba(0, 0, 0, .65)' : 'rgba(255, 255, 255, .75)';
  });

  const viewer = find('.viewer'), tip = find('.tip'), buttons = findAll('.images button');
  const panes = findAll('figure').map(figure => {
    // On the upper canvas only the marks of what is pointed at, so that these do not wait for all else.
    const [canvas, upper] = figure.querySelectorAll('canvas');
    return {figure, canvas, upper, ghost: figure.querySelector('.ghost'), cells: [], shown: []};
  });
  const choices = findAll('.choice button');
  const displayed = () => panes.filter(pane => !pane.figure.hidden);
  const switches = {errors: false, outlines: true, fill: false}, off = new Set();
  const view = {scale: 1, x: 0, y: 0, fitted: true};
  let image = null, picture = null, chosen = -1, ratio = 1, hovered = null, drawing = 0;

  /* Corners of one closed loop: x, y, and the direction to its inside, of -1, 0 and 1 each way. */
  function corners(x, y, letters) {
    const points = [];
    let direction = 0;
    for (const letter of letters) {
      const value = alphabet.indexOf(letter);
      for (const turn of [value & 3, value >> 2 & 3, value >> 4]) {
        x += STEPS[direction][0];
        y += STEPS[direction][1];
        if (!turn) continue;
        const next = (direction + [0, 1, 3, 4 - direction][turn]) % 4;
        const [a, b] = [STEPS[(direction + 1) % 4], STEPS[(next + 1) % 4]];
        points.push(x, y, a[0] + b[0], a[1] + b[1]);
        if (turn === 3) return Float32Array.from(points);
        direction = next;
      }
    }
    throw Error('an outline is not closed');
  }

  function cellOf([label, status, score, partner, outline], index) {
    const loops = [], box = [Infinity, Infinity, -Infinity, -Infinity];
    let area = 0;
    for (let i = 0; i < outline.length; i += 3) {
      const points = corners(outline[i], outline[i + 1], outline[i + 2]);
      let before = points[points.length - 3];
      for (let k = 0; k < points.length; k += 4) {
        const x = points[k], y = points[k + 1];
        area += x * (y - before);
        before = y;
        if (x < box[0]) box[0] = x;
        if (y < box[1]) box[1] = y;
        if (x > box[2]) box[2] = x;
        if (y > box[3]) box[3] = y;
      }
      loops.push(points);
    }
    const [name, line] = statuses[status];
    return {index, label, status, name, line, score, partner, loops, box, area};
  }

  /* Whether a point lies in a cell: it crosses an odd number of upright edges on the way in from the left. */
  function holds({loops, box}, x, y) {
    if (x < box[0] || y < box[1] || x >= box[2] || y >= box[3]) return false;
    let inside = false;
    for (const points of loops) {
      let before = points[points.length - 3];
      for (let k = 0; k < points.length; k += 4) {
        if ((points[k + 1] > y) !== (before > y) && points[k] <= x) inside = !inside;
        before = points[k + 1];
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
    [image, picture, view.fitted] = [data, loaded, true];
    panes.forEach((pane, i) => pane.cells = data.panes[i].map(cellOf));
    // Of each cell, those that it was matched with in other panes.
    const [first, ...others] = panes.map(pane => pane.cells);
    first.forEach(cell => cell.partners = []);
    for (const cell of others.flat()) {
      const partner = first[cell.partner];
      cell.partners = partner ? [partner] : [];
      partner?.partners.push(cell);
    }
    find('.caption').textContent = data.caption;
    findAll('.stage').forEach(stage => stage.style.aspectRatio = Math.min(Math.max(data.width / data.height, 0.8), 2));
    hover(null);
    count();
    measure();
    viewer.dataset.ready = index;
  }

  function count() {
    findAll('.classes button').forEach((button, label) => {
      const counts = panes.map(pane => pane.cells.filter(cell => cell.label === label).length);
      button.querySelector('small').textContent = counts.slice(0, panes.length > 2 ? 1 : 2).join(' / ');
      button.title = panes.map((pane, i) => `${titleOf(pane)}: ${counts[i]}`).join(', ');
      button.setAttribute('aria-pressed', !off.has(label));
    });
    for (const pane of panes) {
      const on = pane.cells.filter(cell => !off.has(cell.label));
      pane.shown = switches.errors ? on.filter(cell => cell.line !== 'solid') : on;
      const [some, all] = [pane.shown.length, pane.cells.length];
      const text = `${all.toLocaleString('en')} cell${all === 1 ? '' : 's'}`;
      pane.figure.querySelector('.count').textContent = some === all ? text : `${some.toLocaleString('en')} of ${text}`;
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
      if (!picture) return;
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

  function draw({canvas, shown}) {
    const pen = clean(canvas), {scale, x, y} = view;
    pen.imageSmoothingEnabled = scale < 3;
    pen.imageSmoothingQuality = 'high';
    pen.drawImage(picture, 0, 0, image.width, image.height);
    const [left, top, right, bottom] = [-x / scale, -y / scale, (canvas.width - x) / scale, (canvas.height - y) / scale];
    const visible = shown.filter(({box: [x1, y1, x2, y2]}) => x2 > left && y2 > top && x1 < right && y1 < bottom);
    if (switches.fill) for (const cell of visible) fill(pen, cell, colours[cell.label], FILL);
    if (switches.outlines) stroke(pen, visible, 1);
  }

  function mark({upper, shown}) {
    const pen = clean(upper);
    if (!hovered) return;
    // In the pane of another model, what matches the same true cell.
    const near = new Set([hovered, ...hovered.partners, ...hovered.partners.flatMap(cell => cell.partners)]);
    const marked = shown.filter(cell => near.has(cell));
    for (const cell of marked) fill(pen, cell, '#fff', FILL);
    stroke(pen, marked, 1.6);
  }

  function fill(pen, cell, colour, opacity) {
    pen.globalAlpha = opacity;
    pen.fillStyle = colour;
    pen.fill(outline(cell, 0));
    pen.globalAlpha = 1;
  }

  /* Outlines, drawn inside the cells so that those of touching cells do not cover each other, over all halos. */
  function stroke(pen, cells, factor) {
    // Thinner where the image is made smaller, as the cells are.
    const unit = ratio / view.scale * Math.min(Math.max(view.scale / ratio, 0.4) ** 0.5, 1);
    // Cell by cell: browsers take ten times as long for one path of them all.
    const paths = cells.map(cell => outline(cell, Math.min(LINES[cell.line].width * factor * unit / 2, 0.45)));
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
  function outline({loops}, inset) {
    const path = new Path2D(), near = 1 / view.scale;
    for (const points of loops) {
      let [x, y] = points;
      path.moveTo(x + inset * points[2], y + inset * points[3]);
      for (let k = 4; k < points.length; k += 4) {
        if (Math.abs(points[k] - x) + Math.abs(points[k + 1] - y) < near) continue;
        [x, y] = [points[k], points[k + 1]];
        path.lineTo(x + inset * points[k + 2], y + inset * points[k + 3]);
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
    redraw();
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
    const lines = [cell.name + (cell.name === 'confused' ? ` with ${names}` : '')];
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
    const [u, v] = [(x * ratio - view.x) / view.scale, (y * ratio - view.y) / view.scale];
    // Of overlapping cells, the smallest, which the pointer could not reach otherwise.
    const under = pane.shown.filter(cell => holds(cell, u, v)).sort((a, b) => a.area - b.area);
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
    if (!image || !keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
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
  choices.forEach(button => button.addEventListener('click', () => {
    button.setAttribute('aria-pressed', button.getAttribute('aria-pressed') === 'false');
    leave();
    arrange();
  }));
  arrange();
  new ResizeObserver(measure).observe(panes[0].canvas);
  choose(0);
})(document.currentScript.previousElementSibling);
