// The small parts that the panel is made of: an element, a button, a slider. Not here: what they are for.

export const SLIDER = 'input[type=range]';

/** An element with properties and children; children that are null, false or empty are left out. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made && name !== 'style') {
      made[name] = value;
    } else {
      made.setAttribute(name, value);
    }
  }
  made.append(...children.filter(child => child || child === 0));
  return made;
}

/**
 * A button.
 * @param {string} text
 * @param {Function} action
 * @param {{key: string, className?: string, hint?: string, title?: string, pressed?: boolean, disabled?: boolean,
 *   barred?: boolean}} given
 *   `key` keeps the focus where it was when the panel is made anew, `hint` is the key that does the same; one that is
 *   `barred` looks disabled, and can be reached and pressed all the same, so that its action says why
 */
export function button(text, action, { key, className = '', hint, title = '', pressed, disabled = false, barred = false }) {
  const made = element('button', { type: 'button', className, title, disabled }, text, hint && element('kbd', {}, hint));
  made.dataset.key = key;
  if (pressed !== undefined) {
    made.setAttribute('aria-pressed', String(pressed));
  }
  made.addEventListener('click', () => action());
  if (barred) {
    made.setAttribute('aria-disabled', 'true');
  }
  // The viewer's keys must work on after a button was pressed.
  made.addEventListener('mousedown', event => event.preventDefault());
  return made;
}

/** A slider with its name, and its value in words. */
export function slider(name, { min, max, value, key }, words, action) {
  const output = element('output', {}, words(value));
  const input = element('input', { type: 'range', min, max, value });
  input.dataset.key = key;
  input.setAttribute('aria-label', name);
  input.addEventListener('input', () => {
    action(Number(input.value));
    output.textContent = words(Number(input.value));
  });
  return element('label', { className: 'slide' }, name, input, output);
}
